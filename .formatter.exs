# Nothing is exported for migrations: their `create` and `drop` are elements of a list, where Elixir requires the
# parentheses of each.
[
  inputs: ["{mix,.formatter}.exs", "{bench,config,examples,lib,test}/**/*.{ex,exs}"]
]
