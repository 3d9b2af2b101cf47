"""Small tools for every package; they import no module of deepreduce except `errors`."""
