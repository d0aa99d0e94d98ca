localrules:
    prepare_problems,  # on a cluster, often only the submitting machine reaches the hub


rule prepare_problems:
    input:
        lambda wildcards: problem_files(compared_with(wildcards.problems)),
    output:
        problems=f"{RESULTS}/problems/{{problems}}.jsonl",
        card=f"{RESULTS}/problems/{{problems}}.json",
    log:
        f"{RESULTS}/logs/problems/{{problems}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/problems/{{problems}}.tsv"
    wildcard_constraints:
        problems=one_of(study.problems),
    conda:
        "../envs/aent.yml"
    threads: lambda wildcards: checkers_of(wildcards.problems)
    resources:
        mem_mb=lambda wildcards, threads: 1500 + 500 * threads,
        runtime=240,
    params:
        definition=lambda wildcards: source_of(wildcards.problems),
    message:
        "Prepare the problems {wildcards.problems}"
    script:
        "../scripts/prepare_problems.py"
