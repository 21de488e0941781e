"""What an intervention does, beside random interventions of the same size."""
