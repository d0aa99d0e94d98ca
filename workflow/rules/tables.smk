localrules:
    write_table,


rule write_table:
    input:
        scores=scores_behind,
        metrics=metrics_behind,
    output:
        csv=report(
            f"{RESULTS}/tables/{{table}}.csv",
            category="Tables",
            caption="../report/table.rst",
            labels={"table": "{table}"},
        ),
        md=f"{RESULTS}/tables/{{table}}.md",
        tex=f"{RESULTS}/tables/{{table}}.tex",
    log:
        f"{RESULTS}/logs/tables/{{table}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/{{table}}.tsv"
    wildcard_constraints:
        table=one_of(study.tables),
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        definition=definition,
    message:
        "Write {wildcards.table}"
    script:
        "../scripts/write_table.py"
