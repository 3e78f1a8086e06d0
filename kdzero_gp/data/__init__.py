"""Data: what is read of files and of the user's own objects, split, kept and moved. Tasks name their readers."""
