-- Roles live in the cluster, not in the database: several tests may create them at the same time.
do $$
declare
  role text;
begin
  foreach role in array array['fixture owner', 'fixture_reader', 'fixture_group'] loop
    begin
      execute format('create role %I', role);
    exception when duplicate_object or unique_violation then
      null;
    end;
  end loop;
end
$$;
