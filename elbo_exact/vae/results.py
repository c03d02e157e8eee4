"""What a training run leaves: an outcome in a sentence, a history by epoch, and a state of plain arrays from which it goes on."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from elbo_exact._npz import read_arrays
from elbo_exact._validate import FloatArray
from elbo_exact.fit.optimizers import OptimizerState
from elbo_exact.vae._files import built, read_settings, write
from elbo_exact.vae.model import GaussianVAE

__all__ = ["COLUMNS", "TrainingOutcome", "TrainingResult", "TrainingState"]

COLUMNS = ("loss", "validation", "beta", "floor_share", "gradient_norm")


class TrainingOutcome(enum.Enum):
    """How a training run ended; the value is a sentence for the user."""

    MAX_EPOCHS = "All epochs are done."
    EARLY_STOP = "The validation bound has not risen for the given number of epochs; the best parameters are returned."
    DIVERGED = "The loss or its gradient left the range of numbers; lower learning_rate, or clip. The last good parameters are returned."
    VARIANCE_COLLAPSE = (
        "Too many variances of the decoder reached their floor, where the likelihood only measures the floor; "
        "raise min_log_variance, share the variance, or take a smaller network. The last good parameters are returned."
    )
    INTERRUPTED = "Interrupted from the keyboard; the parameters of the last complete epoch are returned."


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A run at the end of an epoch.

    Parameters
    ----------
    model : GaussianVAE
        The parameters there.
    best : ndarray
        Parameters of the epoch with the highest validation bound so far; without validation, those of ``model``.
    optimizer : OptimizerState
        Moments and count of steps.
    history : ndarray, shape (epochs, 5)
        Columns of `TrainingResult`.
    random : dict
        State of the bit generator.
    """

    model: GaussianVAE
    best: npt.NDArray[np.floating[Any]]
    optimizer: OptimizerState
    history: FloatArray
    random: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz file without pickles, by an atomic rename."""
        moments = np.array(self.optimizer.moments).reshape(len(self.optimizer.moments), self.model.n_params)
        settings = {
            "model": {**self.model.settings(), "hidden": list(self.model.hidden)},
            "count": self.optimizer.count,
            "random": self.random,
        }
        arrays = {"best": self.best, "history": self.history, "moments": moments, "params": self.model.params}
        write(path, "TrainingState", settings, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingState:
        """Read what :meth:`save` wrote."""
        arrays = read_arrays(path, ("best", "history", "moments", "params", "settings"))
        settings = read_settings(arrays["settings"], path, "TrainingState")
        model = built(GaussianVAE, arrays["params"], dict(settings["model"]), path)
        moments = tuple(row.astype(model.params.dtype) for row in arrays["moments"])
        optimizer = OptimizerState(int(settings["count"]), moments)
        return cls(model, arrays["best"], optimizer, arrays["history"], settings["random"])


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """How a run ended.

    Parameters
    ----------
    model : GaussianVAE
        The best parameters by the validation bound; without validation, the last good ones.
    outcome : TrainingOutcome
    detail : str
        The same in numbers.
    state : TrainingState
        The last complete epoch; ``fit_vae(..., resume=state)`` goes on.
    """

    model: GaussianVAE
    outcome: TrainingOutcome
    detail: str
    state: TrainingState = field(repr=False)

    @property
    def n_epochs(self) -> int:
        """Epochs done, those of the runs before included."""
        return len(self.state.history)

    @property
    def history(self) -> dict[str, FloatArray]:
        """What was measured in each epoch.

        ``loss`` is the mean loss (minus the bound), ``validation`` the validation bound (NaN without), ``beta`` the weight of the KL,
        ``floor_share`` the share of decoder log variances at the floor, ``gradient_norm`` the mean norm of the gradient.
        """
        return {name: self.state.history[:, i].copy() for i, name in enumerate(COLUMNS)}

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, floats and strings."""
        return {
            "outcome": self.outcome.name,
            "sentence": self.outcome.value,
            "detail": self.detail,
            "n_epochs": self.n_epochs,
            "history": {name: values.tolist() for name, values in self.history.items()},
            "model": self.model.to_dict(),
        }
