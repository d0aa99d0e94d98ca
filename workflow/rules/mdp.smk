localrules:
    draw_mdp,


rule simulate_mdp:
    output:
        f"{RESULTS}/mdp/values.parquet",
    log:
        f"{RESULTS}/logs/mdp/simulate.log",
    benchmark:
        f"{RESULTS}/benchmarks/mdp/simulate.tsv"
    conda:
        "../envs/aent.yml"
    threads: study.mdp.threads if study.mdp else 1
    resources:
        mem_mb=lambda wildcards, threads: 1000 * threads,
        runtime=120,
    params:
        definition=study.mdp.model_dump(mode="json") if study.mdp else None,
    message:
        "Simulate the synthetic decision problem of Figure 1"
    script:
        "../scripts/simulate_mdp.py"


rule draw_mdp:
    input:
        values=f"{RESULTS}/mdp/values.parquet",
    output:
        svg=report(
            f"{RESULTS}/figures/figure1.svg",
            category="Figures",
            caption="../report/figure1.rst",
            labels={"figure": "figure1"},
        ),
        pdf=f"{RESULTS}/figures/figure1.pdf",
        png=f"{RESULTS}/figures/figure1.png",
    log:
        f"{RESULTS}/logs/figures/figure1.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/figure1.tsv"
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        definition=study.mdp.model_dump(mode="json") if study.mdp else None,
    message:
        "Draw Figure 1 from the synthetic decision problem"
    script:
        "../scripts/draw_mdp.py"
