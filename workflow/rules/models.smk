SCRATCH = [name for name, model in study.models.items() if isinstance(model, ScratchModel)]


localrules:
    fetch_model,


rule create_model:
    input:
        problems=lambda wildcards: problem_files(
            [study.models[wildcards.model].warm_start.problems]
        ),
    output:
        model=directory(f"{RESULTS}/models/{{model}}"),
        metrics=f"{RESULTS}/models/{{model}}.json",
    log:
        f"{RESULTS}/logs/models/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/models/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(SCRATCH),
    conda:
        "../envs/aent.yml"
    threads: lambda wildcards: study.models[wildcards.model].warm_start.threads
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        definition=lambda wildcards: study.models[wildcards.model].model_dump(mode="json"),
    message:
        "Build the base model {wildcards.model} and warm it up on worked solutions"
    script:
        "../scripts/create_model.py"


rule fetch_model:
    output:
        model=directory(f"{RESULTS}/models/{{model}}"),
        source=f"{RESULTS}/models/{{model}}.json",
    log:
        f"{RESULTS}/logs/models/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/models/{{model}}.tsv"
    wildcard_constraints:
        model=one_of(set(study.models) - set(SCRATCH)),
    conda:
        "../envs/aent.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        definition=lambda wildcards: study.models[wildcards.model].model_dump(
            mode="json", exclude={"shape"}
        ),
    message:
        "Fetch the base model {wildcards.model}"
    script:
        "../scripts/fetch_model.py"
