-- Each order keeps what it cost. Release 1 runs on meanwhile and knows nothing of it: the column may be empty at first, and a trigger
-- fills it for the orders that release 1 still takes.
-- once
ALTER TABLE orders ADD COLUMN total_cents INTEGER
-- once
CREATE TRIGGER order_total AFTER INSERT ON orders WHEN NEW.total_cents IS NULL BEGIN
    UPDATE orders SET total_cents = NEW.quantity * (SELECT price_cents FROM products WHERE id = NEW.product_id) WHERE id = NEW.id;
END
-- batches: SELECT count(*) FROM orders WHERE total_cents IS NULL
UPDATE orders SET total_cents = quantity * (SELECT price_cents FROM products WHERE products.id = orders.product_id)
WHERE id IN (SELECT id FROM orders WHERE total_cents IS NULL ORDER BY id LIMIT :batch)
-- once
CREATE INDEX orders_by_customer ON orders (customer, total_cents)
