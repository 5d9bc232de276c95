"""One file = one kind of page: a PAGE that turns the view of the table into documents."""
