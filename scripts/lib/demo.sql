-- The database of scripts/demo: a small shop with what makes copying a database interesting.
SET client_min_messages = warning;
SELECT setseed(0.42);

CREATE TYPE order_state AS ENUM ('new', 'paid', 'sent', 'returned');

CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    address jsonb NOT NULL,
    tags text[] NOT NULL DEFAULT '{}'
);
INSERT INTO customer (name, email, address, tags)
SELECT 'Customer ' || i, format('c%s@example.org', i), jsonb_build_object('city', 'City ' || i % 500, 'zip', 10000 + i % 9000),
       ARRAY['since' || 2010 + i % 15, chr(97 + i % 26)]
FROM generate_series(1, 50000) i;
CREATE INDEX customer_tags ON customer USING gin (tags);
CREATE INDEX customer_city ON customer ((address ->> 'city'));

CREATE TABLE product (
    sku text PRIMARY KEY,
    "Größe" numeric(6, 2),
    price numeric(10, 2) NOT NULL CHECK (price > 0),
    price_with_tax numeric GENERATED ALWAYS AS (price * 1.19) STORED,
    photo oid
);
INSERT INTO product (sku, "Größe", price, photo)
SELECT 'P-' || i, i % 60 / 4.0, 1 + i % 250, lo_from_bytea(0, decode(repeat(md5(i::text), 64), 'hex'))
FROM generate_series(1, 1000) i;
COMMENT ON TABLE product IS 'what we sell; photos are large objects';

CREATE TABLE orders (
    id bigserial,
    placed date NOT NULL,
    customer bigint NOT NULL REFERENCES customer,
    state order_state NOT NULL,
    PRIMARY KEY (placed, id)
) PARTITION BY RANGE (placed);
SELECT format('CREATE TABLE orders_%s PARTITION OF orders FOR VALUES FROM (%L) TO (%L)', y, y || '-01-01', y + 1 || '-01-01')
FROM generate_series(2021, 2024) y
\gexec
INSERT INTO orders (placed, customer, state)
SELECT date '2021-01-01' + (random() * 1460)::int, 1 + (random() * 49999)::int, (enum_range(NULL::order_state))[1 + i % 4]
FROM generate_series(1, 300000) i;
CREATE INDEX orders_customer ON orders (customer);

CREATE TABLE order_line (
    placed date NOT NULL,
    orders bigint NOT NULL,
    line int NOT NULL,
    sku text NOT NULL REFERENCES product,
    quantity int NOT NULL,
    PRIMARY KEY (placed, orders, line),
    FOREIGN KEY (placed, orders) REFERENCES orders (placed, id)
);
INSERT INTO order_line
SELECT o.placed, o.id, l, 'P-' || 1 + (o.id * 7 + l) % 1000, 1 + (o.id + l) % 5
FROM orders o, generate_series(1, 2) l;

CREATE MATERIALIZED VIEW revenue AS
SELECT extract(year FROM placed)::int AS year, sum(price * quantity) AS total
FROM order_line JOIN product USING (sku) GROUP BY 1;
CREATE UNIQUE INDEX revenue_year ON revenue (year);

CREATE FUNCTION remember_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a copy must not fire triggers';
END $$;
CREATE TRIGGER customer_change AFTER INSERT ON customer FOR EACH ROW EXECUTE FUNCTION remember_change();
