localrules:
    write_report,


rule write_report:
    input:
        tables=table_files(),
        figures=figure_files(),
        claims=claim_files(),
        scores=f"{RESULTS}/scores.parquet",
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
        "aent"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    message:
        "Write the report"
    script:
        "../scripts/write_report.py"
