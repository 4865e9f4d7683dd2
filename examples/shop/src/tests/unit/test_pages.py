"""Pages show what the API says, and nothing of it is taken for HTML."""
import unittest

from shop import pages

PRODUCTS = [{"id": 1, "name": "Amphora", "price_cents": 4905}]


def front(customer="Ann", product=1):
    orders = [{"id": 7, "customer": customer, "product_id": product, "quantity": 2, "total_cents": 9810}]
    return pages.front("9.9.9", PRODUCTS, orders, {"orders": 1, "pieces": 2, "revenue_cents": 9810}, {})


class Front(unittest.TestCase):
    def test_it_says_which_release_it_is(self):
        self.assertIn("<h1>Shop 9.9.9</h1>", front())

    def test_prices_have_two_digits_of_cents(self):
        self.assertIn("49.05 EUR", front())

    def test_names_are_text(self):
        self.assertIn("&lt;b&gt;", front(customer="<b>"))
        self.assertNotIn("<b>", front(customer="<b>"))

    def test_an_order_of_something_that_is_no_longer_sold_is_shown(self):
        self.assertIn("no longer sold", front(product=99))

    def test_a_receipt_says_what_was_ordered(self):
        order = {"id": 7, "customer": "<Ann>", "quantity": 2, "total_cents": 9810}
        self.assertIn("Order 7: 2 x Amphora for &lt;Ann&gt;", pages.receipt("9.9.9", order, "Amphora", {}))


if __name__ == "__main__":
    unittest.main()
