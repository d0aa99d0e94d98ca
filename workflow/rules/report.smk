localrules:
    write_report,


rule write_report:
    input:
        tables=table_files(),
        figures=figure_files(),
        claims=claim_files(),
        scores=f"{RESULTS}/scores.parquet",
        models=[f"{RESULTS}/models/{model}.json" for model in study.used_models()],
        cards=[f"{RESULTS}/problems/{name}.json" for name in study.used_problems()],
        runs=[f"{folder(run)}/run.json" for run in RUNS],
        metrics=metric_files(RUNS),
    output:
        report(
            f"{RESULTS}/report.html",
            category="Report",
            caption="../report/report.rst",
            labels={"report": "all"},
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        # The page shows nearly all of it, the plan included, and takes seconds.
        definition=study.model_dump(mode="json", exclude={"results", "tracking"}),
    message:
        "Write the report"
    script:
        "../scripts/write_report.py"
