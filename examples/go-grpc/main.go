// Sends a batch over gRPC, prints one result per message, and follows the channel.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "example.com/sendbatch-go-grpc/gen/sendbatch/v1"
)

// Retries a call that the service refuses for now. The keys of the messages make a retry exact.
const retryUnavailable = `{"methodConfig": [{
  "name": [{"service": "sendbatch.v1.MessageService"}],
  "retryPolicy": {
    "maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "5s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
  }
}]}`

const channelID = "go-grpc"

func draft(from, key, text string) *pb.MessageDraft {
	return &pb.MessageDraft{
		FromUid:     from,
		ChannelId:   channelID,
		ChannelType: pb.ChannelType_CHANNEL_TYPE_GROUP,
		ClientMsgNo: key,
		Payload:     []byte(text),
	}
}

func main() {
	address := os.Getenv("SENDBATCH_ADDRESS")
	if address == "" {
		address = "127.0.0.1:5001"
	}
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(retryUnavailable))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := pb.NewMessageServiceClient(conn)

	// Alice is no member of the channel: her message is refused, the others are stored.
	sent, err := client.SendBatch(ctx, &pb.SendBatchRequest{Messages: []*pb.MessageDraft{
		draft("system", "go-1", "hello"),
		draft("alice", "go-2", "may I?"),
		draft("system", "go-3", "world"),
	}})
	if err != nil {
		log.Fatal(err)
	}
	for _, result := range sent.Results {
		if refusal := result.GetError(); refusal != nil {
			fmt.Println("refused", result.ClientMsgNo, refusal.Reason)
		} else {
			fmt.Println("stored", result.ClientMsgNo, "as", result.MessageSeq)
		}
	}

	stream, err := client.Subscribe(ctx, &pb.SubscribeRequest{Channels: []*pb.ChannelCursor{
		{ChannelId: channelID, ChannelType: pb.ChannelType_CHANNEL_TYPE_GROUP, AfterSeq: 0},
	}})
	if err != nil {
		log.Fatal(err)
	}
	for {
		frame, err := stream.Recv()
		if err != nil {
			log.Fatal(err)
		}
		if message := frame.GetMessage(); message != nil {
			fmt.Println("received", message.MessageSeq, string(message.Payload))
		} else if frame.GetCaughtUp() != nil {
			return
		}
	}
}
