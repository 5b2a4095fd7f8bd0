"""Programs that make the trained files of the package from data that is not in the repository."""
