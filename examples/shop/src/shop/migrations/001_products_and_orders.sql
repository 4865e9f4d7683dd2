-- What the shop sells, and what was ordered. An order keeps the customer's own key, so that asking twice is ordering once.
-- once
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price_cents INTEGER NOT NULL CHECK (price_cents > 0))
-- once
CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, customer TEXT NOT NULL,
    product_id INTEGER NOT NULL, quantity INTEGER NOT NULL CHECK (quantity > 0), placed_at REAL NOT NULL)
-- once
INSERT INTO products (id, name, price_cents) VALUES
    (1, 'Amphora', 4900), (2, 'Laurel wreath', 1250), (3, 'Bronze mask', 18900), (4, 'Seat cushion', 790), (5, 'Water clock', 32500)
