package dev.rbee.examples;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import dev.rbee.v1.HiveServiceGrpc;
import dev.rbee.v1.HiveServiceListRequest;
import dev.rbee.v1.InferRequest;
import dev.rbee.v1.InferenceServiceGrpc;
import dev.rbee.v1.JobSpec;
import dev.rbee.v1.Sampling;
import dev.rbee.v1.TelemetryServiceGrpc;
import dev.rbee.v1.WatchClusterRequest;
import io.grpc.Channel;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;

/** Works with a queen: Main [--queen HOST:PORT] infer MODEL PROMPT | hives | watch. */
public final class Main {
  private static final String USAGE = "usage: Main [--queen HOST:PORT] infer MODEL PROMPT | hives | watch";

  private Main() {}

  public static void main(String[] given) {
    var arguments = new ArrayList<>(List.of(given));
    String address = System.getenv().getOrDefault("RBEE_QUEEN", "127.0.0.1:7833");
    if (arguments.size() > 1 && arguments.get(0).equals("--queen")) {
      address = arguments.get(1);
      arguments.subList(0, 2).clear();
    }
    var queen = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
    try {
      run(queen, arguments);
    } catch (StatusRuntimeException error) {
      System.err.println(reason(error) + ": " + error.getStatus().getDescription());
      System.exit(1);
    } finally {
      queen.shutdownNow();
    }
  }

  private static void run(Channel queen, List<String> arguments) {
    String command = arguments.isEmpty() ? "" : arguments.get(0);
    if (command.equals("infer") && arguments.size() == 3) {
      infer(queen, arguments.get(1), arguments.get(2));
    } else if (command.equals("hives") && arguments.size() == 1) {
      hives(queen);
    } else if (command.equals("watch") && arguments.size() == 1) {
      watch(queen);
    } else {
      System.err.println(USAGE);
      System.exit(2);
    }
  }

  /** Writes an answer to stdout as it comes, everything else that happens to stderr. */
  private static void infer(Channel queen, String model, String prompt) {
    var sampling = Sampling.newBuilder().setMaxTokens(64).setTemperature(0);
    var job = JobSpec.newBuilder().setModel(model).setPrompt(prompt).setSampling(sampling);
    var responses = InferenceServiceGrpc.newBlockingStub(queen).infer(InferRequest.newBuilder().setJob(job).build());
    while (responses.hasNext()) {
      for (var event : responses.next().getEventsList()) {
        switch (event.getEventCase()) {
          case TOKENS -> {
            System.out.print(event.getTokens().getText());
            System.out.flush();
          }
          case DONE -> System.err.println("\ndone: " + event.getDone().getUsage().getCompletionTokens() + " tokens");
          default -> System.err.println(event.getEventCase().name().toLowerCase(Locale.ROOT));
        }
      }
    }
  }

  /** Prints a line for each machine. */
  private static void hives(Channel queen) {
    var stub = HiveServiceGrpc.newBlockingStub(queen);
    var request = HiveServiceListRequest.newBuilder();
    do {
      var page = stub.list(request.build());
      for (var hive : page.getHivesList()) {
        String state = hive.getState().name().replaceFirst("^HIVE_STATE_", "");
        System.out.printf(
            "%s %s %d devices %d models%n", hive.getId(), state, hive.getDevicesCount(), hive.getModelsCount());
      }
      request.setPageToken(page.getNextPageToken());
    } while (!request.getPageToken().isEmpty());
  }

  /** Prints a line whenever the cluster is told of: all of it first, then what changed. */
  private static void watch(Channel queen) {
    var hives = new HashSet<String>();
    var workers = new HashSet<String>();
    var changes = TelemetryServiceGrpc.newBlockingStub(queen).watchCluster(WatchClusterRequest.getDefaultInstance());
    while (changes.hasNext()) {
      var change = changes.next();
      change.getHivesList().forEach(hive -> hives.add(hive.getId()));
      change.getWorkersList().forEach(worker -> workers.add(worker.getId()));
      change.getRemovedHiveIdsList().forEach(hives::remove);
      change.getRemovedWorkerIdsList().forEach(workers::remove);
      System.out.printf(
          Locale.ROOT,
          "%d hives, %d workers, %d waiting, %.1f tokens/s%n",
          hives.size(),
          workers.size(),
          change.getQueueDepth(),
          change.getTokensPerSecond());
    }
  }

  /** Returns the reason of google.rpc.ErrorInfo, on which programs can switch; the code where there is none. */
  private static String reason(StatusRuntimeException error) {
    var status = StatusProto.fromThrowable(error);
    if (status != null) {
      for (var detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          try {
            return detail.unpack(ErrorInfo.class).getReason();
          } catch (InvalidProtocolBufferException unreadable) {
            break;
          }
        }
      }
    }
    return error.getStatus().getCode().name();
  }
}
