# Exports nothing for migrations: their commands are elements of a list, where the formatter always writes the
# parentheses of `create(…)` and `drop(…)`.
[
  inputs: ["{mix,.formatter,.credo}.exs", "{bench,config,examples,lib,test}/**/*.{ex,exs}"]
]
