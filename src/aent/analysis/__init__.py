"""From recorded metrics and scores to tables, figures, claims and the report."""
