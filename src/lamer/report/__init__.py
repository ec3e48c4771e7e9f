"""One HTML file about a run; reads the run directory only."""
