localrules:
    draw_figure,


rule draw_figure:
    input:
        scores=scores_behind,
        metrics=metrics_behind,
    output:
        svg=report(
            f"{RESULTS}/figures/{{figure}}.svg",
            category="Figures",
            caption="../report/figure.rst",
            labels={"figure": "{figure}"},
        ),
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=f"{RESULTS}/figures/{{figure}}.png",
    log:
        f"{RESULTS}/logs/figures/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/{{figure}}.tsv"
    wildcard_constraints:
        figure=one_of(study.figures),
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        definition=definition,
    message:
        "Draw {wildcards.figure}"
    script:
        "../scripts/draw_figure.py"
