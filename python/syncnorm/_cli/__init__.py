"""What the commands `demo` and `bench` share: optional packages, facts of the machine, progress."""
