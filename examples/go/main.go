// Command contract streams one answer from a queen: contract localhost:7833 MODEL PROMPT
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	rbeev1 "rbee.example/contract/rbee/v1"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: contract HOST:PORT MODEL PROMPT")
	}
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	job := &rbeev1.JobSpec{
		Model:    os.Args[2],
		Input:    &rbeev1.JobSpec_Prompt{Prompt: os.Args[3]},
		Sampling: &rbeev1.Sampling{MaxTokens: proto.Uint32(64), Temperature: proto.Float32(0)},
	}
	if err := infer(context.Background(), rbeev1.NewInferenceServiceClient(connection), job); err != nil {
		log.Fatal(err)
	}
}

// infer writes the answer to stdout and the other events to stderr.
func infer(ctx context.Context, queen rbeev1.InferenceServiceClient, job *rbeev1.JobSpec) error {
	stream, err := queen.Infer(ctx, &rbeev1.InferRequest{Job: job})
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
			show(event)
		}
	}
}

func show(event *rbeev1.JobEvent) {
	switch happened := event.GetEvent().(type) {
	case *rbeev1.JobEvent_Tokens:
		fmt.Print(happened.Tokens.GetText())
	case *rbeev1.JobEvent_Done:
		done := happened.Done
		fmt.Fprintf(os.Stderr, "%d: %s, %d tokens\n", event.GetSequence(), done.GetFinishReason(), done.GetUsage().GetCompletionTokens())
	default:
		fmt.Fprintf(os.Stderr, "%d: %T\n", event.GetSequence(), happened)
	}
}
