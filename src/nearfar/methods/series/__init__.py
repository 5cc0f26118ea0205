"""Methods of time series."""
