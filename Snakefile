"""Train, evaluate and redraw the paper: from problems to tables, figures, claims and a report.

snakemake --cores all                                   the laptop default, config/config.yaml
snakemake -n --configfile config/paper.yaml             what the paper's settings would take
snakemake --cores all results/tables/table3.md          one table and what it needs
"""

# A configuration given on the command line replaces the default one; Snakemake would merge them.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


# Functions and the checked configuration, `study`.
include: "workflow/rules/common.smk"
# In the order in which data flows.
include: "workflow/rules/problems.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/mdp.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/tracking.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        *table_files(),
        *figure_files(),
        *claim_files(),
        f"{RESULTS}/scores.parquet",
        f"{RESULTS}/report.html",
        *tracking_files(),


onstart:
    create_tracking_store()
