"""Free-form and log-likelihood evaluation, with paired statistics."""
