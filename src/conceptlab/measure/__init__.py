"""What returns scores: probing, geometry, effects of interventions."""
