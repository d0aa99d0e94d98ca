localrules:
    prepare_problems,  # on a cluster, often only the submitting machine reaches the hub


rule prepare_problems:
    output:
        f"{RESULTS}/problems/{{problems}}.jsonl",
    log:
        f"{RESULTS}/logs/problems/{{problems}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/problems/{{problems}}.tsv"
    wildcard_constraints:
        problems=one_of(study.problems),
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=60,
    params:
        definition=lambda wildcards: study.problems[wildcards.problems].model_dump(mode="json"),
    message:
        "Prepare the problems {wildcards.problems}"
    script:
        "../scripts/prepare_problems.py"
