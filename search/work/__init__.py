"""Workers: they claim slots, supervise trials, judge them, and show progress."""
