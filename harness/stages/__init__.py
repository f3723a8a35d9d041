"""The functions of the stages: each turns settings and input folders into a new folder."""
