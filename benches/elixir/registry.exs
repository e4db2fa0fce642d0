# The work of the benches, done by Elixir's own `Registry` and `DynamicSupervisor`.
#
#     elixir --erl "+S 2:2 +P 4000000" benches/elixir/registry.exs [--quick | --test]
#
# Prints a line for each figure, its fields apart by tabs: `figure`, the group and the operation as the benches name them,
# the way, the number, and the unit. A figure is the median of its rounds, and an operation is one of one caller's.

defmodule Counter do
  use GenServer, restart: :temporary

  def start_link({key, delay}), do: GenServer.start_link(__MODULE__, delay, name: via(key))
  def via(key), do: {:via, Registry, {Counters, key}}

  @impl true
  def init(delay) do
    if delay > 0, do: Process.sleep(delay)
    {:ok, 0}
  end

  @impl true
  def handle_call(:get, _from, count), do: {:reply, count, count}

  @impl true
  def handle_cast(:add, count), do: {:noreply, count + 1}
  def handle_cast({:note, to, tally}, count) do
    :counters.sub(tally, 1, 1)
    if :counters.get(tally, 1) == 0, do: send(to, :through)
    {:noreply, count}
  end
end

defmodule Bench do
  @way "Elixir Registry"

  # Twelve characters, as in the other benches.
  def key(n), do: "+1555" <> String.pad_leading(Integer.to_string(n), 7, "0")

  def say(group, number, unit), do: IO.puts(Enum.join(["figure", group, @way, number / 1, unit], "\t"))

  # Nanoseconds.
  def clock(work) do
    begun = System.monotonic_time()
    work.()
    System.convert_time_unit(System.monotonic_time() - begun, :native, :nanosecond)
  end

  def median(numbers), do: numbers |> Enum.sort() |> Enum.at(div(length(numbers), 2))

  # In a process of its own: with no garbage of what went before.
  def alone(work), do: Task.async(work) |> Task.await(:infinity)

  def rounds(rounds, work), do: median(for _ <- 1..rounds, do: alone(work))

  # From the moment when all callers are there until the last is through.
  def callers(number, work) do
    tasks =
      for n <- 0..(number - 1) do
        Task.async(fn ->
          receive do
            :go -> work.(n)
          end
        end)
      end

    clock(fn ->
      Enum.each(tasks, &send(&1.pid, :go))
      Task.await_many(tasks, :infinity)
    end)
  end

  def up do
    {:ok, _} = Registry.start_link(keys: :unique, name: Counters, partitions: 2)
    {:ok, _} = DynamicSupervisor.start_link(name: Counter.Supervisor, strategy: :one_for_one)
  end

  def down do
    stop(Process.whereis(Counter.Supervisor))
    stop(Process.whereis(Counters))
  end

  defp stop(pid), do: Supervisor.stop(pid, :normal, :infinity)

  def start(key, delay \\ 0) do
    case DynamicSupervisor.start_child(Counter.Supervisor, {Counter, {key, delay}}) do
      {:ok, pid} -> pid
      {:error, {:already_started, pid}} -> pid
    end
  end

  def lookup(key) do
    case Registry.lookup(Counters, key) do
      [{pid, _}] -> pid
      [] -> nil
    end
  end

  def lookup_or_start(key), do: lookup(key) || start(key)

  def fill(number) do
    callers(64, fn caller ->
      Enum.each(:lists.seq(caller, number - 1, 64), &start(key(&1)))
    end)
  end

  # Each element once, without the cost of an iterator.
  def each([], _work), do: :ok

  def each([one | rest], work) do
    work.(one)
    each(rest, work)
  end

  def times(0, _work), do: :ok

  def times(n, work) do
    work.()
    times(n - 1, work)
  end

  def run(large, small, ops, rounds, million, shut_down) do
    :rand.seed(:exsss, {1, 2, 3})

    alone(fn ->
      up()
      fill(small)
      hot = key(div(small, 2))
      say("lookup/hot key of 1,000", rounds(rounds, fn -> clock(fn -> times(ops, fn -> lookup(hot) end) end) / ops end), "ns")
      say("lookup_or_start/hit, hot key of 1,000", rounds(rounds, fn -> clock(fn -> times(ops, fn -> lookup_or_start(hot) end) end) / ops end), "ns")
      random = Enum.shuffle(for n <- 0..(small - 1), do: key(n))
      say("lookup/random of 1,000", rounds(rounds, fn -> clock(fn -> each(random, &lookup/1) end) / small end), "ns")
      say("lookup and call/random of 1,000", rounds(rounds, fn -> clock(fn -> each(random, &GenServer.call(lookup(&1), :get)) end) / small end), "ns")
      pid = lookup(hot)
      calls = div(ops, 10)
      say("call/callers: 1", rounds(rounds, fn -> clock(fn -> times(calls, fn -> GenServer.call(pid, :get) end) end) / calls end), "ns")
      say("call/callers: 8", rounds(rounds, fn -> callers(8, fn _ -> times(calls, fn -> GenServer.call(pid, :get) end) end) / (8 * calls) end), "ns")
      casts = fn -> times(ops, fn -> GenServer.cast(pid, :add) end); GenServer.call(pid, :get, :infinity) end
      say("cast/callers: 1", rounds(rounds, fn -> clock(casts) / ops end), "ns")
      say("cast/callers: 8", rounds(rounds, fn -> callers(8, fn _ -> casts.() end) / (8 * ops) end), "ns")
      via = Counter.via(hot)
      say("via/call", rounds(rounds, fn -> clock(fn -> times(calls, fn -> GenServer.call(via, :get) end) end) / calls end), "ns")
      viacasts = fn -> times(ops, fn -> GenServer.cast(via, :add) end); GenServer.call(pid, :get, :infinity) end
      say("via/cast", rounds(rounds, fn -> clock(viacasts) / ops end), "ns")

      # Keys that are vacant, and the stop that makes them so again.
      fresh = for n <- large..(large + div(ops, 50)), do: key(n)
      number = length(fresh)
      both = for _ <- 1..rounds, do: alone(fn -> starts_and_stops(fresh, number) end)
      say("cold_start/distinct keys, callers: 1", median(Enum.map(both, &elem(&1, 0))), "ns")
      say("churn/stop, callers: 1", median(Enum.map(both, &elem(&1, 1))), "ns")
      both = for _ <- 1..rounds, do: starts_of_64(fresh, number)
      say("cold_start/distinct keys, callers: 64", median(both), "ns")
      churn = fn ->
        each(fresh, fn key ->
          pid = start(key)
          GenServer.call(pid, :get)
          stop_one(pid)
        end)

        each(fresh, &free/1)
      end
      say("churn/start, call, stop, callers: 1", rounds(rounds, fn -> clock(churn) / number end), "ns")
      say("churn/kill to the next worker, p50", rounds(1, fn -> median(for key <- fresh do
        pid = start(key)
        spent = clock(fn ->
          Process.exit(pid, :kill)
          again(key, pid)
        end)
        stop_one(lookup(key))
        free(key)
        spent
      end) end), "ns")
      isolation(small)
      down()
    end)

    # A quiet heap: everything of before is gone with its process.
    before = :erlang.memory(:total)
    begun = clock(fn -> spawn_holder(large) end)
    :erlang.garbage_collect()
    say("memory/100,000 workers, allocated", (:erlang.memory(:total) - before) / large, "B")
    say("start, callers: 64/100,000", begun / large, "ns")
    random = Enum.shuffle(for n <- 0..(large - 1), do: key(n))
    say("lookup/random of 100,000", rounds(rounds, fn -> clock(fn -> each(random, &lookup/1) end) / large end), "ns")
    missing = Enum.shuffle(for n <- large..(2 * large - 1), do: key(n))
    say("lookup/miss in 100,000", rounds(rounds, fn -> clock(fn -> each(missing, &lookup/1) end) / large end), "ns")
    say("lookup and call/random of 100,000", rounds(rounds, fn -> clock(fn -> each(random, &GenServer.call(lookup(&1), :get)) end) / large end), "ns")
    reduce = fn -> Registry.select(Counters, [{{:"$1", :_, :_}, [], [:"$1"]}]) |> Enum.reduce(0, &(byte_size(&1) + &2)) end
    say("reduce/100,000", rounds(rounds, fn -> clock(reduce) / large end), "ns")
    list = fn -> Registry.select(Counters, [{{:_, :"$1", :_}, [], [:"$1"]}]) end
    say("to_list/100,000", rounds(rounds, fn -> clock(list) / large end), "ns")
    say("broadcast/100,000", rounds(rounds, fn -> clock(fn ->
      tally = :counters.new(1, [:atomics])
      :counters.put(tally, 1, large)
      me = self()
      each(list.(), &GenServer.cast(&1, {:note, me, tally}))
      receive do
        :through -> :ok
      end
    end) / large end), "ns")
    # A supervisor looks through its mailbox for each child that it ends: with this many it can take minutes.
    if shut_down, do: say("shut down/100,000", clock(&drop_holder/0) / large, "ns")

    if million > 0 do
      before = :erlang.memory(:total)
      say("memory/1,000,000 workers, start", clock(fn -> spawn_holder(million) end) / 1.0e9, "s")
      say("memory/1,000,000 workers, allocated", (:erlang.memory(:total) - before) / million, "B")
    end

    # Without ending them one by one.
    System.halt(0)
  end

  def starts_and_stops(keys, number) do
    started = clock(fn -> each(keys, &start/1) end) / number
    pids = Enum.map(keys, &lookup/1)
    stopped = clock(fn -> each(pids, &stop_one/1) end) / number
    each(keys, &free/1)
    {started, stopped}
  end

  def starts_of_64(keys, number) do
    parts = List.to_tuple(Enum.chunk_every(keys, div(number, 64) + 1))
    spent = callers(tuple_size(parts), fn n -> each(elem(parts, n), &start/1) end) / number
    each(keys, &stop_one(lookup(&1)))
    each(keys, &free/1)
    spent
  end

  def stop_one(pid), do: :ok = DynamicSupervisor.terminate_child(Counter.Supervisor, pid)

  # The name goes a moment after the process.
  def free(key) do
    case Registry.lookup(Counters, key) do
      [] -> :ok
      _ ->
        :erlang.yield()
        free(key)
    end
  end

  # Until another process than the one that was killed has the key.
  def again(key, old) do
    case start(key) do
      ^old ->
        :erlang.yield()
        again(key, old)

      pid -> pid
    end
  end

  # One supervisor runs one init after the other: how long a start waits behind 100 that take 10 ms each.
  def isolation(small) do
    alone = for n <- 1..101, do: clock(fn -> start(key(8_000_000 + n)) end)
    say("isolation/cold start, none hangs", median(alone), "ns")
    me = self()
    for n <- 1..100, do: spawn(fn -> start(key(9_000_000 + n), 10); send(me, :started) end)
    Process.sleep(5)
    say("isolation/cold start, 100 inits of 10 ms", clock(fn -> start(key(small + 2)) end), "ns")
    for _ <- 1..100 do
      receive do
        :started -> :ok
      end
    end
  end

  # The table belongs to a process that is told when to end.
  def spawn_holder(number) do
    me = self()
    pid = spawn(fn ->
      up()
      fill(number)
      send(me, :filled)
      receive do
        {:end, from} ->
          down()
          send(from, :ended)
      end
    end)
    :persistent_term.put(:holder, pid)
    receive do
      :filled -> :ok
    end
  end

  def drop_holder do
    send(:persistent_term.get(:holder), {:end, self()})
    receive do
      :ended -> :ok
    end
  end
end

IO.puts("version\tElixir\t#{System.version()}")
IO.puts("version\tOTP\t#{System.otp_release()}, #{:erlang.system_info(:schedulers_online)} schedulers, #{:erlang.system_info(:emu_flavor)}")

case System.argv() do
  ["--test"] -> Bench.run(100, 100, 1_000, 1, 0, true)
  ["--quick"] -> Bench.run(100_000, 1_000, 100_000, 5, 0, false)
  _ -> Bench.run(100_000, 1_000, 500_000, 11, 1_000_000, true)
end
