"""One training loop for proxies, races and real trainings: recipe, batches, teacher, optimiser, precision."""
