"""What scores a candidate: screens, gradient fingerprints, the surrogate, short trainings, fitness."""
