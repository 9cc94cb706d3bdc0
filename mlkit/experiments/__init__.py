"""Many runs: compared, searched, combined, cross-validated, studied."""
