"""Names of runs in a picture tell them apart by what differs."""

from __future__ import annotations

from hyplearn.plots.run_names import differing, distinct_names, leaves, settings


def test_runs_are_named_by_what_tells_them_apart() -> None:
    def config(model: str, tau: float, seed: int = 1) -> dict[str, object]:
        kind = "sphere" if model.startswith("sph") else "poincare"
        manifold = {"kind": kind, "c": 0.1}
        return {"seed": seed, "choices": {"model": model}, "loss": {"tau": tau}, "manifold": manifold}

    assert distinct_names([config("sph_vit_s", 0.1), config("hyp_vit_s", 0.1)]) == ["Sph", "Hyp"]
    three = [config("sph_vit_s", 0.1), config("sph_vit_s", 0.2), config("hyp_vit_s", 0.2)]
    assert distinct_names(three) == ["Sph, tau=0.1", "Sph, tau=0.2", "Hyp, tau=0.2"]
    assert distinct_names([config("hyp_vit_s", 0.1), config("hyp_vit_s", 0.1, 2)]) == ["Hyp, seed=1", "Hyp, seed=2"]
    assert distinct_names([config("hyp_vit_s", 0.1)] * 2) == ["Hyp #1", "Hyp #2"]


def test_settings_are_what_decides_a_result() -> None:
    flat = [dict(leaves({"seed": seed, "output_dir": "x", "loss": {"tau": tau}})) for seed, tau in ((1, 0.1), (2, 0.2))]
    assert settings(flat) == ["loss.tau"]
    assert differing(flat, ["seed", "output_dir", "loss.tau"]) == ["seed", "loss.tau"]
