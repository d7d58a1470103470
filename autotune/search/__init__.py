"""The study and its loop: space, samplers, trials one by one."""
