"""What predictions are worth: metrics, intervals, calibration, thresholds, tables and figures."""
