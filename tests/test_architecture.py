"""Imports go down: the layers of the package, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "elbo_exact"

# Lowest layer first; a module imports only from lower layers, or from its own if that layer is one package or one group below.
LAYERS = [
    {"errors"},
    {"kernels"},
    {"_validate", "_parallel", "_plain", "_npz"},
    {"_sums", "_layers", "_csv", "_evidence_rows"},
    {"_engine", "space"},
    {"evidence", "grid", "families", "guides"},
    {"divergence", "models"},
    {"variational", "_importance", "_mean_field"},
    {"importance"},
    {"_certify"},
    {"_audit"},
    {"_density", "_coverage", "_bound_rows"},
    {"anatomy", "projection", "_bound_results"},
    {"_annealing"},
    {"_k_sample", "_gap_report", "_catalogue", "_theorems", "fit"},
    {"_ladder", "vae"},
    {"bounds"},
    {"gallery", "adapters", "sklearn", "_fitted"},
    {"_study", "_vae_study"},
    {"report", "plot", "_doctor"},
    {"_figures", "_portable", "_vae_plots", "testing"},
    {"_test_commands", "_fit_commands"},
    {"cli"},
    {"__main__"},
]
QUANTITIES = {
    "_engine",
    "evidence",
    "divergence",
    "variational",
    "_annealing",
    "_importance",
    "importance",
    "_certify",
    "_audit",
    "_density",
    "_coverage",
    "anatomy",
    "projection",
    "_bound_rows",
    "_bound_results",
    "_k_sample",
    "_ladder",
    "bounds",
}
MODELS = {"families", "models", "guides"}
FRONT = {"report", "plot", "cli"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
LONGEST = 350  # lines
TESTED_ELSEWHERE = {
    "testing": ("test_testing.py", "strategies, assertions, fingerprints and mutants judge each other"),
    "__main__.py": ("test_cli.py", "it only calls the command line"),
    "errors.py": ("test_bad_input.py", "every error by its words, type and value"),
    "fit/steps.py": ("test_vi_training.py", "the steps of test_vi.py, and their settings"),
    "fit/validation.py": ("test_vi_training.py", "seen in fits that it ends"),
    "fit/vi_checkpoint.py": ("test_vi_training.py", "seen in fits that it continues"),
    "_portable": ("test_portable.py", "answers, problems and files of one export"),
    "_study": ("test_study.py", "one study, several files"),
    "families/_simplex.py": ("test_categorical.py", "seen in the families made of log probabilities"),
    "families/_columns.py": ("test_bernoulli.py", "arguments as seen in every family"),
    "families/_counted.py": ("test_binomial.py", "beside the densities that need it"),
    "families/_diagonal.py": ("test_gaussian.py", "seen in the densities of a Gaussian"),
    "families/_triangular.py": ("test_gaussian.py", "likewise"),
    "families/_gaussian_statistics.py": ("test_gaussian.py", "statistics and prior of a Gaussian"),
    "families/_gaussian_prior.py": ("test_gaussian.py", "likewise"),
    "families/_gaussian_step.py": ("test_gaussian.py", "its M-step"),
    "families/_derivatives.py": ("test_information.py", "derivatives are seen in the information"),
    "families/_derivatives_gaussian.py": ("test_information.py", "likewise"),
    "models/_derivatives.py": ("test_information.py", "likewise"),
    "models/_derivatives_causes.py": ("test_information_models.py", "likewise"),
    "models/_derivatives_chain.py": ("test_information_models.py", "likewise"),
    "models/_derivatives_network.py": ("test_information_models.py", "likewise"),
    "families/_factorials.py": ("test_poisson.py", "beside the densities that need it"),
    "models/_chain.py": ("test_hidden_markov.py", "bounds of its sums, seen in the model"),
    "models/_chain_statistics.py": ("test_hidden_markov.py", "what its methods take and return"),
    "kernels/chain.py": ("test_hidden_markov.py", "the model's sums against all paths"),
    "kernels/chain_log.py": ("test_hidden_markov.py", "likewise, where scaled sums would underflow"),
    "models/_fused.py": ("test_expectation.py", "one E-step, its parts by family"),
    "_evidence_rows.py": ("test_evidence.py", "the public function adds validation and threads"),
    "models/_patterns.py": ("test_kernels_patterns.py", "codes beside the sums over them"),
    "models/_scratch.py": ("test_expectation.py", "likewise"),
    "models/_fused_change.py": ("test_expectation.py", "likewise"),
    "models/_moved.py": ("test_expectation.py", "its bound, with and without tables"),
    "models/_fused_categorical.py": ("test_expectation.py", "likewise"),
    "models/_fused_gaussian.py": ("test_expectation.py", "likewise"),
    "models/_mixture_statistics.py": ("test_mixture.py", "what its methods take and return"),
    "kernels/mixture.py": ("test_expectation.py", "seen in the E-steps"),
    "models/_expected.py": ("test_fit.py", "two records of an E-step"),
    "fit/optimizers.py": ("test_optimizers.py", "apart from the fits that use them"),
    "models/_network_checks.py": ("test_bayesian_network.py", "networks as they are refused"),
    "models/_network_table.py": ("test_bayesian_network.py", "seen in the log tables"),
    "models/_network_inference.py": ("test_bayesian_network.py", "both methods against brute force"),
    "models/_elimination.py": ("test_bayesian_network.py", "likewise"),
    "_fitted.py": ("test_fit_commands.py", "models as the commands fit, keep and use them"),
    "sklearn": ("test_sklearn.py", "one face, tested by scikit-learn's own checks"),
    "adapters": ("test_adapters.py", "readers of one kind, sharing their words"),
    "guides": ("test_guides.py", "one protocol, all guides"),
    "models/_causes.py": ("test_binary_causes.py", "what both layers share"),
    "models/noisy_or.py": ("test_binary_causes.py", "beside the other layer of causes"),
    "models/sigmoid_belief.py": ("test_binary_causes.py", "likewise"),
    "fit": ("test_fit.py", "one loop, its steps and its result"),
    "_vae_plots.py": ("test_vae_study.py", "drawn from the same small study"),
    "vae/model.py": ("test_vae.py", "one model, several files"),
    "vae/_objective.py": ("test_vae.py", "likewise"),
    "vae/_likelihood.py": ("test_vae.py", "likewise"),
    "vae/_coordinates.py": ("test_vae_truth.py", "seen in the integrals"),
    "vae/_truth.py": ("test_vae_truth.py", "likewise"),
    "vae/_networks.py": ("test_vae.py", "likewise"),
    "vae/results.py": ("test_vae_training.py", "seen at the ends of runs"),
    "vae/_files.py": ("test_vae_training.py", "beside the runs that it keeps"),
    "vae/training.py": ("test_vae_training.py", "one model, several files"),
    "_figures": ("test_figures.py", "numbers, drawings and files of the same figures"),
    "gallery": ("test_gallery.py", "one loader, several formats"),
    "families/_rounding.py": ("test_mixture.py", "rounding bounds of the models' sums"),
    "kernels/pivoted.py": ("test_variational.py", "the gradient; the rest through test_divergence.py"),
    "kernels/divergences.py": ("test_divergence.py", "the public functions add validation only"),
    "kernels/renyi.py": ("test_divergence.py", "likewise, at sixteen orders"),
    "_sums.py": ("test_audit.py", "weights, sums and the table are seen in an audit"),
    "kernels/annealing.py": ("test_annealing.py", "the public functions add validation only"),
    "kernels/laplace_weights.py": ("test_kernels_laplace.py", "q and log ratios are seen in the integrals"),
    "kernels/laplace_nodes.py": ("test_kernels_laplace.py", "nodes are seen in the integrals"),
    "kernels/laplace_gradient.py": ("test_importance.py", "the public functions add validation only"),
    "kernels/laplace_law.py": ("test_importance.py", "likewise"),
    "kernels/laplace_states.py": ("test_kernels_laplace.py", "seen in the integrals"),
    "kernels/laplace_walk.py": ("test_kernels_laplace.py", "seen in the integrals"),
    "kernels/perturbative_logs.py": ("test_kernels_perturbative.py", "polynomials and remainders there, sums in the bounds"),
    "kernels/laplace_variance.py": ("test_kernels_laplace.py", "seen in the integrals"),
    "kernels/descent.py": ("test_optimizers.py", "Adam beside the other optimizers"),
    "kernels/normal.py": ("test_vae.py", "beside the objectives that call them"),
    "kernels/posterior.py": ("test_evidence.py", "the public functions add validation only"),
    "kernels/moment_terms.py": ("test_kernels_moment.py", "one moment, by its sums and by its terms"),
    "kernels/perturbative_remainder.py": ("test_kernels_perturbative.py", "the small gaps, for ratios of any size"),
    "kernels/perturbative_root.py": ("test_kernels_perturbative.py", "the root is seen in the bounds, for ratios of any size"),
    "kernels/points.py": ("test_kernels_path.py", "one path, its fast and its careful passes"),
    "_bound_results.py": ("test_bounds.py", "the public functions add docstrings only"),
    "_bound_rows.py": ("test_bounds.py", "tasks are seen in the bounds, which do not depend on them"),
    "_catalogue.py": ("test_bounds.py", "a table"),
    "_k_sample.py": ("test_bounds.py", "seen through the jackknife and SUMO"),
    "_theorems.py": ("test_ladder.py", "what verify() checks"),
    "kernels/gap.py": ("test_kernels_rows.py", "a record is seen as a row of one chunk"),
    "kernels/merge.py": ("test_kernels_rows.py", "seen as rows of several chunks"),
    "kernels/direct_rows.py": ("test_kernels_direct.py", "the ELBO and the EUBO alone, beside their terms"),
    "kernels/terms.py": ("test_kernels_rows.py", "terms are seen in the sums"),
    "kernels/tree.py": ("test_kernels_reduce.py", "sums are seen in log-sum-exp, at every boundary"),
    "kernels/tiles.py": ("test_kernels_short.py", "tiles are seen at their limits"),
}
# a public function each 45 lines, 35 of them its documented contract; and the two passes over a chunk beside each other
EXCEPTIONS = {
    "divergence.py": 540,
    "evidence.py": 370,
    "gap.py": 390,
    "bounds.py": 540,
    "_assertions.py": 470,
    "points.py": 360,
    "bayesian_network.py": 390,
}


def unit(path: Path) -> str:
    """The module or sub-package of the top level that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Units of this package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "elbo_exact":
            names = [f"elbo_exact.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("elbo_exact.")}
    return found


def level(name: str) -> int:
    """Index of a unit's layer."""
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def test_every_module_has_a_layer() -> None:
    assert {unit(path) for path in MODULES} <= set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = unit(path)
    for name in imports(path) - {own}:
        assert level(name) < level(own), f"{own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_quantities_and_models_do_not_know_each_other(path: Path) -> None:
    if unit(path) in QUANTITIES:
        assert not imports(path) & MODELS
    if unit(path) in MODELS:
        assert not imports(path) & QUANTITIES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_front_prints_and_it_never_computes(path: Path) -> None:
    calls = [node.func.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
             and isinstance(node.func, ast.Name)]  # fmt: skip
    if unit(path) not in FRONT and path.name != "_jit.py":
        assert "print" not in calls
    if unit(path) in {"report", "plot"}:
        assert "kernels" not in imports(path)


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels").glob("[!_]*.py")), ids=lambda path: path.name)
def test_kernels_know_only_kernels(path: Path) -> None:
    assert imports(path) <= {"kernels"}
    text = path.read_text(encoding="utf-8")
    assert "fastmath=" not in text
    assert "parallel=True" not in text
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Raise)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= EXCEPTIONS.get(path.name, LONGEST)


def mirror() -> dict[str, str]:
    """The test file of every module and package, and of what is listed as tested elsewhere."""
    files = {}
    for path in MODULES:
        name = path.relative_to(PACKAGE)
        if name.name != "__init__.py":
            prefix = "test_kernels_" if name.parts[0] == "kernels" else "test_"
            own = f"{prefix}{name.stem.removeprefix('_')}.py"
            files[str(name)] = next(
                (TESTED_ELSEWHERE[key][0] for key in (str(name), name.parts[0]) if key in TESTED_ELSEWHERE), own
            )
    return files


@pytest.mark.parametrize(("module", "test"), mirror().items())
def test_every_module_has_a_test_file(module: str, test: str) -> None:
    assert (TESTS / test).is_file(), (
        f"{module} needs tests/{test}, or a line in TESTED_ELSEWHERE that says where it is tested and why"
    )


def test_the_list_of_exceptions_is_not_out_of_date() -> None:
    for name, (test, reason) in TESTED_ELSEWHERE.items():
        assert (PACKAGE / name).exists() and (TESTS / test).is_file() and reason
