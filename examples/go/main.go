// Command example works with a queen: example [-queen HOST:PORT] infer MODEL PROMPT | hives | watch
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rbeev1 "rbee.example/go/rbee/v1"
)

const usage = "usage: example [-queen HOST:PORT] infer MODEL PROMPT | hives | watch"

func main() {
	address := "127.0.0.1:7833"
	if given := os.Getenv("RBEE_QUEEN"); given != "" {
		address = given
	}
	flag.StringVar(&address, "queen", address, "where the queen serves gRPC")
	flag.Parse()
	if err := run(context.Background(), address, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, told(err))
		os.Exit(1)
	}
}

func run(ctx context.Context, address string, arguments []string) error {
	queen, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer queen.Close()
	switch {
	case len(arguments) == 3 && arguments[0] == "infer":
		return infer(ctx, rbeev1.NewInferenceServiceClient(queen), arguments[1], arguments[2])
	case len(arguments) == 1 && arguments[0] == "hives":
		return hives(ctx, rbeev1.NewHiveServiceClient(queen))
	case len(arguments) == 1 && arguments[0] == "watch":
		return watch(ctx, rbeev1.NewTelemetryServiceClient(queen))
	}
	return errors.New(usage)
}

// infer writes an answer to stdout as it comes, everything else that happens to stderr.
func infer(ctx context.Context, queen rbeev1.InferenceServiceClient, model, prompt string) error {
	stream, err := queen.Infer(ctx, &rbeev1.InferRequest{Job: &rbeev1.JobSpec{
		Model:    model,
		Input:    &rbeev1.JobSpec_Prompt{Prompt: prompt},
		Sampling: &rbeev1.Sampling{MaxTokens: proto.Uint32(64), Temperature: proto.Float32(0)},
	}})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, event := range response.GetEvents() {
			switch happened := event.GetEvent().(type) {
			case *rbeev1.JobEvent_Tokens:
				fmt.Print(happened.Tokens.GetText())
			case *rbeev1.JobEvent_Done:
				fmt.Fprintf(os.Stderr, "\ndone: %d tokens\n", happened.Done.GetUsage().GetCompletionTokens())
			default:
				fmt.Fprintf(os.Stderr, "%T\n", happened)
			}
		}
	}
}

// hives prints a line for each machine.
func hives(ctx context.Context, queen rbeev1.HiveServiceClient) error {
	request := &rbeev1.HiveServiceListRequest{}
	for {
		page, err := queen.List(ctx, request)
		if err != nil {
			return err
		}
		for _, hive := range page.GetHives() {
			state := strings.TrimPrefix(hive.GetState().String(), "HIVE_STATE_")
			fmt.Printf("%s %s %d devices %d models\n", hive.GetId(), state, len(hive.GetDevices()), len(hive.GetModels()))
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return nil
		}
	}
}

// watch prints a line whenever the cluster is told of: all of it first, then what changed.
func watch(ctx context.Context, queen rbeev1.TelemetryServiceClient) error {
	stream, err := queen.WatchCluster(ctx, &rbeev1.WatchClusterRequest{})
	if err != nil {
		return err
	}
	hives, workers := map[string]bool{}, map[string]bool{}
	for {
		change, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, hive := range change.GetHives() {
			hives[hive.GetId()] = true
		}
		for _, worker := range change.GetWorkers() {
			workers[worker.GetId()] = true
		}
		for _, id := range change.GetRemovedHiveIds() {
			delete(hives, id)
		}
		for _, id := range change.GetRemovedWorkerIds() {
			delete(workers, id)
		}
		fmt.Printf("%d hives, %d workers, %d waiting, %.1f tokens/s\n",
			len(hives), len(workers), change.GetQueueDepth(), change.GetTokensPerSecond())
	}
}

// told puts the reason of google.rpc.ErrorInfo, on which programs can switch, before what an error says.
func told(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, found := detail.(*errdetails.ErrorInfo); found {
			return info.GetReason() + ": " + status.Convert(err).Message()
		}
	}
	return err.Error()
}
