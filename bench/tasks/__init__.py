"""One file = one accuracy task: TASK, data and fixed recipe."""
