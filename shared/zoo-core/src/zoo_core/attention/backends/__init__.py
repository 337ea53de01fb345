"""The ways to compute a call: one file each, with `refusal(call)` ("" if able) and `run(call)`."""
