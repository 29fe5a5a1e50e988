"""Runtime support for long work on one or several machines: devices, processes, signals, progress."""
