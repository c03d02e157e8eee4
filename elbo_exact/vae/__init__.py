"""The Gaussian variational autoencoder on hand-written gradients, with its exact evidence where the latent space is small."""

from elbo_exact.vae._truth import VAEAudit
from elbo_exact.vae.model import Code, Decoded, GaussianVAE
from elbo_exact.vae.results import TrainingOutcome, TrainingResult, TrainingState
from elbo_exact.vae.training import fit_vae

__all__ = ["Code", "Decoded", "GaussianVAE", "TrainingOutcome", "TrainingResult", "TrainingState", "VAEAudit", "fit_vae"]
