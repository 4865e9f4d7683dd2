"""What orders cost, and who spent how much."""
from .store import Store


class TotalsStore(Store):
    COLUMNS = Store.COLUMNS + ", total_cents"

    def stats(self):
        return {**super().stats(), **self.read("SELECT coalesce(sum(total_cents), 0) AS revenue_cents FROM orders")[0]}

    def customers(self, limit):
        query = "SELECT customer, count(*) AS orders, sum(total_cents) AS spent_cents FROM orders GROUP BY customer ORDER BY 3 DESC, 1 LIMIT ?"
        return self.read(query, limit)
