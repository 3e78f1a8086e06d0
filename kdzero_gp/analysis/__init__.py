"""What a run found, from Python: data frames, comparison, genealogy, replay."""
