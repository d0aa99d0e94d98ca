# A rule a setting: the checkpoints that a run leaves, and what it needs of the machine, are the
# setting's. The state that an interrupted run goes on from is no output: Snakemake deletes those.
for setting in SETTINGS:

    rule:
        name:
            f"train_policy_{setting}"
        input:
            model=f"{RESULTS}/models/{study.settings[setting].model}",
            problems=f"{RESULTS}/problems/{study.settings[setting].problems}.jsonl",
        output:
            metrics=f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/metrics.parquet",
            run=f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/run.json",
            completions=f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/completions.parquet",
            checkpoints=[
                directory(f"{RESULTS}/{setting}/{{method}}/seed{{seed}}/checkpoints/step-{step}")
                for step in study.settings[setting].trainer.checkpoint_steps
            ],
        log:
            f"{RESULTS}/logs/train/{setting}/{{method}}/seed{{seed}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/train/{setting}/{{method}}/seed{{seed}}.tsv"
        wildcard_constraints:
            method=one_of(methods_of(setting)),
            seed=r"-?\d+",
        conda:
            "../envs/aent.yml"
        threads: study.settings[setting].trainer.threads
        resources:
            **training_needs(setting),
        params:
            setting=setting,
            recipe=recipe_of(setting),
        message:
            "Train {wildcards.method} in setting {params.setting}, seed {wildcards.seed}"
        script:
            "../scripts/train_policy.py"
