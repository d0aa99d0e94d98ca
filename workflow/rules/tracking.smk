localrules:
    mirror_results,


rule mirror_results:
    input:
        runs=[f"{folder(run)}/run.json" for run in RUNS],
        scores=score_files(RUNS),
        tables=table_files(),
        figures=figure_files(),
        claims=claim_files(),
        report=f"{RESULTS}/report.html",
    output:
        f"{RESULTS}/mlflow/mirrored.json",
    log:
        f"{RESULTS}/logs/mirror_results.log",
    benchmark:
        f"{RESULTS}/benchmarks/mirror_results.tsv"
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        uri=tracking_uri(study),
    message:
        "Fill what MLflow lacks, and add tables and figures to it"
    script:
        "../scripts/mirror_results.py"
