"""Fast products of many experts on a CPU, and the memory they reuse."""
