"""`lineup bench`: how fast encrypted matching is, beside what else there is, and what each reveals to whom."""
