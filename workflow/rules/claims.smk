if study.claims:

    localrules:
        judge_claims,

    rule judge_claims:
        input:
            scores=score_files(study.claims_runs()),
            metrics=metric_files(study.claims_runs()),
            mdp=mdp_files(),
        output:
            csv=report(
                f"{RESULTS}/claims.csv",
                category="Claims",
                caption="../report/claims.rst",
                labels={"claims": "all"},
            ),
            md=f"{RESULTS}/claims.md",
        log:
            f"{RESULTS}/logs/claims.log",
        benchmark:
            f"{RESULTS}/benchmarks/claims.tsv"
        conda:
            "../envs/aent.yml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=20,
        params:
            definition=study.claims.model_dump(mode="json") | captions(study.claims_runs()),
        message:
            "Judge the paper's claims by our runs"
        script:
            "../scripts/judge_claims.py"
