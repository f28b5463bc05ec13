# Applications use the export with `import_deps: [:ecto_fdb_sync]`. It keeps `[create index(User, [:name])]` as it is;
# in a list of several commands, Elixir itself requires the parentheses of `create(…)`.
[
  inputs: ["{mix,.formatter}.exs", "{bench,config,examples,lib,test}/**/*.{ex,exs}"],
  export: [locals_without_parens: [create: 1, drop: 1]]
]
