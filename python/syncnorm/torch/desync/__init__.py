"""Report where every rank of a process group is when the ranks disagree or one does not arrive."""
