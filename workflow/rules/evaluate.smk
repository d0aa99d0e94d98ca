localrules:
    collect_scores,


for setting in SETTINGS:

    rule:
        name:
            f"evaluate_base_{setting}"
        input:
            checkpoints=[f"{RESULTS}/models/{study.settings[setting].model}"],
            problems=problem_files(benchmarks_of(setting)),
        output:
            scores=[f"{RESULTS}/{setting}/base/scores/step-0.json"],
            details=[f"{RESULTS}/{setting}/base/scores/step-0.parquet"],
        log:
            f"{RESULTS}/logs/evaluate/{setting}/base.log",
        benchmark:
            f"{RESULTS}/benchmarks/evaluate/{setting}/base.tsv"
        conda:
            "../envs/aent.yml"
        threads: study.settings[setting].trainer.threads
        resources:
            **evaluation_needs(setting),
        params:
            setting=setting,
            steps=[0],
            definition=evaluation_of(setting),
        message:
            "Evaluate the base model of setting {params.setting}"
        script:
            "../scripts/evaluate_checkpoints.py"

    for steps in batches(setting):

        rule:
            name:
                f"evaluate_checkpoints_{setting}_{steps[0]}"
            input:
                run=f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/run.json",
                checkpoints=[
                    f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/checkpoints/step-{step}"
                    for step in steps
                ],
                problems=problem_files(benchmarks_of(setting)),
            output:
                scores=[
                    f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/scores/step-{step}.json"
                    for step in steps
                ],
                details=[
                    f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/scores/step-{step}.parquet"
                    for step in steps
                ],
            log:
                f"{RESULTS}/logs/evaluate/{setting}/{{method}}/seed{{seed}}-step{steps[0]}.log",
            benchmark:
                f"{RESULTS}/benchmarks/evaluate/{setting}/{{method}}/seed{{seed}}-step{steps[0]}.tsv"
            wildcard_constraints:
                method=one_of(methods_of(setting)),
                seed=r"-?\d+",
            conda:
                "../envs/aent.yml"
            threads: study.settings[setting].trainer.threads
            resources:
                **evaluation_needs(setting),
            params:
                setting=setting,
                steps=steps,
                definition=evaluation_of(setting),
            message:
                "Evaluate {wildcards.method} in setting {params.setting}, seed {wildcards.seed}, steps {params.steps}"
            script:
                "../scripts/evaluate_checkpoints.py"


rule collect_scores:
    input:
        scores=score_files(RUNS),
    output:
        f"{RESULTS}/scores.parquet",
    log:
        f"{RESULTS}/logs/collect_scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_scores.tsv"
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    message:
        "Collect the scores of all checkpoints in one table"
    script:
        "../scripts/collect_scores.py"
