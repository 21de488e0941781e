"""What the pages ask of the running model, as steps of a job: no hook or edit stays active between two steps."""
